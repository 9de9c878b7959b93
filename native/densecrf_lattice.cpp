// Mean field of the fully connected CRF with two Potts terms (Kraehenbuehl and Koltun 2011), filtered through the
// permutohedral lattice (Adams, Baek, Davis 2010): what pydensecrf computes, with the same lattice, several times faster.
//
// What makes it faster, in the order of what it saves:
// - A lattice point gathers its pixels (an array of them, point by point) instead of pixels being scattered over points.
// - Blurring walks along chains of neighbours in place. A point without neighbours in a direction is not touched.
// - Each lattice point looks up one neighbour a direction, not two, through keys packed into 64 bits.
// - Kernel weights and normalisation (if any) are folded into the barycentric weights, exp takes four labels at a time.
//
// Every label goes through the same operations. Where nothing tells them apart (no proposal, all probabilities equal) they
// stay equal to the last bit: the mean field would make any difference grow until it shows.
//
// Plain C++17 with the vector extensions of GCC and Clang: no processor newer than the compiler's default is needed.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

using Vec = float __attribute__((vector_size(16)));
using IntVec = int32_t __attribute__((vector_size(16)));
constexpr int LANES = 4;
constexpr int LARGEST_BLOCK = 6;         // vectors of labels that go through the lattice at once
constexpr float LARGEST_COORDINATE = 1 << 15;  // beyond it float32 positions in the lattice mean little
constexpr int PIXELS_AT_ONCE = 4;        // of pydensecrf, see Lattice

// Numbers for keys in the order of their arrival: open addressing, at most half full.
class KeyTable {
public:
    explicit KeyTable(size_t expected) {
        while (slots_.size() < 2 * expected) grow();
    }
    size_t size() const { return keys_.size(); }
    uint64_t key(size_t number) const { return keys_[number]; }
    void prefetch(uint64_t key) const { __builtin_prefetch(&slots_[hash(key)]); }
    int32_t find(uint64_t key) const { return slots_[slot(key)]; }  // -1: not there
    int32_t insert(uint64_t key) {
        if (2 * keys_.size() >= slots_.size()) grow();
        int32_t& number = slots_[slot(key)];
        if (number < 0) {
            number = static_cast<int32_t>(keys_.size());
            keys_.push_back(key);
        }
        return number;
    }

private:
    size_t hash(uint64_t key) const { return ((key * 0x9E3779B97F4A7C15ull) >> 20) & (slots_.size() - 1); }
    size_t slot(uint64_t key) const {
        size_t at = hash(key);
        while (slots_[at] >= 0 && keys_[slots_[at]] != key) at = (at + 1) & (slots_.size() - 1);
        return at;
    }
    void grow() {
        slots_.assign(2 * slots_.size(), -1);
        for (size_t number = 0; number < keys_.size(); number++) slots_[slot(keys_[number])] = static_cast<int32_t>(number);
    }
    std::vector<uint64_t> keys_;
    std::vector<int32_t> slots_ = std::vector<int32_t>(1024, -1);
};

// The lattice around n pixels with D features each. A pixel lies in a simplex of D + 1 lattice points.
//
// pydensecrf works on four pixels at once and fills up the last four with pixels whose features are 0. Their lattice points
// carry no value but let others' values through, which can be seen in small images; so such a pixel is placed here too.
template <int D>
class Lattice {
public:
    static constexpr int POINTS = D + 1;

    template <class Features>  // void(size_t pixel, float features[D])
    Lattice(size_t n, float kernel_weight, bool normalized, Features features) : n_(n) {
        const size_t placed = n + (n % PIXELS_AT_ONCE != 0);
        points_.resize(placed * POINTS);
        weights_.resize(placed * POINTS);
        place(placed, features);
        points_.resize(n * POINTS);
        weights_.resize(n * POINTS);
        gather_pixels();
        scale(kernel_weight, normalized);
    }

    // Add the filtered values to `out`; a pixel's are V in a row, pixels are `stride` apart.
    template <class T, int V>
    void filter(const T* in, size_t stride, T* out) const {
        std::vector<T> values(size_ * V);
        splat<T, V>(in, stride, values.data());
        blur<T, V>(values.data());
        for (size_t pixel = 0; pixel < n_; pixel++) {
            T sum[V] = {};
            for (size_t at = pixel * POINTS; at < (pixel + 1) * POINTS; at++) {
                const T* row = values.data() + size_t(points_[at]) * V;
                for (int v = 0; v < V; v++) sum[v] += weights_[at] * row[v];
            }
            for (int v = 0; v < V; v++) out[pixel * stride + v] += sum[v];
        }
    }

private:
    // Number the lattice points by the pixels that touch them first, and chain them along each direction.
    template <class Features>
    void place(size_t n, Features features) {
        std::vector<std::array<int32_t, D>> origins(n);
        std::vector<std::array<int8_t, D>> ranks(n);
        std::array<int32_t, D> low, high;
        low.fill(std::numeric_limits<int32_t>::max());
        high.fill(std::numeric_limits<int32_t>::min());
        for (size_t pixel = 0; pixel < n; pixel++) {
            float f[D] = {};
            if (pixel < n_) features(pixel, f);
            simplex(f, origins[pixel], ranks[pixel], &weights_[pixel * POINTS]);
            for (int i = 0; i < D; i++) {
                low[i] = std::min(low[i], origins[pixel][i]);
                high[i] = std::max(high[i], origins[pixel][i]);
            }
        }
        std::array<int, D> shift;
        int bits = 0;
        for (int i = 0; i < D; i++) {
            low[i] -= 2 * POINTS;  // room for the other points of a simplex and their neighbours
            shift[i] = bits;
            for (uint64_t range = int64_t(high[i]) - low[i] + 2 * POINTS; range > 0; range >>= 1) bits++;
        }
        if (bits > 63) throw std::invalid_argument("the kernels are too narrow for an image of this size");
        const auto packed = [&](auto coordinate) {  // wraps around as it must where a coordinate is below 0
            uint64_t key = 0;
            for (int i = 0; i < D; i++) key += uint64_t(int64_t(coordinate(i))) << shift[i];
            return key;
        };
        KeyTable table(n);
        for (size_t pixel = 0; pixel < n; pixel++) {
            const uint64_t origin = packed([&](int i) { return origins[pixel][i] - low[i]; });
            for (int r = 0; r < POINTS; r++) {
                const uint64_t to = packed([&](int i) { return ranks[pixel][i] <= D - r ? r : r - POINTS; });
                points_[pixel * POINTS + r] = table.insert(origin + to);
            }
        }
        size_ = table.size();
        for (int direction = 0; direction < POINTS; direction++)
            chains_[direction] = chains(table, packed([&](int i) { return i == direction ? D : -1; }));
    }

    // The simplex around a pixel: its point of remainder 0, the order of the pixel's coordinates in it, the barycentric
    // weights (pp. 5 and 10 of the lattice's paper). The operations are pydensecrf's, in its order: a pixel between two
    // simplices must fall into the same one.
    static void simplex(const float* f, std::array<int32_t, D>& origin, std::array<int8_t, D>& ranks, float* weights) {
        static const auto scale = [] {
            std::array<float, D> scale;
            const float deviation = float(std::sqrt(2.0 / 3.0) * POINTS);
            for (int i = 0; i < D; i++) scale[i] = float(1.0 / std::sqrt((i + 2.0) * (i + 1.0)) * deviation);
            return scale;
        }();
        constexpr float DOWN = 1.0f / POINTS;
        float elevated[POINTS], remainder0[POINTS], sum = 0, rounded_sum = 0;
        for (int i = D; i > 0; i--) {
            const float scaled = f[i - 1] * scale[i - 1];
            elevated[i] = sum - float(i) * scaled;
            sum += scaled;
        }
        elevated[0] = sum;
        for (int i = 0; i < POINTS; i++) {
            const float rounded = std::nearbyint(DOWN * elevated[i]);
            remainder0[i] = rounded * POINTS;
            rounded_sum += rounded;
            if (!(std::fabs(remainder0[i]) < LARGEST_COORDINATE))
                throw std::invalid_argument("the kernels are too narrow for an image of this size");
        }
        int rank[POINTS] = {};
        for (int i = 0; i < D; i++)
            for (int j = i + 1; j < POINTS; j++) {
                const bool below = elevated[i] - remainder0[i] < elevated[j] - remainder0[j];
                rank[i] += below;
                rank[j] += !below;
            }
        float barycentric[D + 2] = {};
        for (int i = 0; i < POINTS; i++) {  // back onto the plane where the rounded coordinates do not add up to 0
            rank[i] += int(rounded_sum);
            const int off = rank[i] < 0 ? 1 : rank[i] > D ? -1 : 0;
            rank[i] += off * POINTS;
            remainder0[i] += off * POINTS;
            const float v = (elevated[i] - remainder0[i]) * DOWN;
            barycentric[D - rank[i]] += v;
            barycentric[D - rank[i] + 1] -= v;
        }
        barycentric[0] += 1 + barycentric[POINTS];
        std::copy_n(barycentric, POINTS, weights);
        for (int i = 0; i < D; i++) {
            origin[i] = int32_t(remainder0[i]);
            ranks[i] = int8_t(rank[i]);
        }
    }

    // Chains of two and more neighbours that lie `step` apart, each behind its length.
    static std::vector<int32_t> chains(const KeyTable& table, uint64_t step) {
        constexpr size_t AHEAD = 12;  // the table does not fit into the cache
        std::vector<int32_t> next(table.size()), found;
        std::vector<uint8_t> has_previous(table.size());
        for (size_t point = 0; point < table.size(); point++) {
            if (point + AHEAD < table.size()) table.prefetch(table.key(point + AHEAD) + step);
            next[point] = table.find(table.key(point) + step);
            if (next[point] >= 0) has_previous[next[point]] = 1;
        }
        for (size_t first = 0; first < table.size(); first++) {
            if (has_previous[first] || next[first] < 0) continue;
            const size_t at = found.size();
            found.push_back(0);
            for (int32_t point = int32_t(first); point >= 0; point = next[point]) found.push_back(point);
            found[at] = int32_t(found.size() - at - 1);
        }
        return found;
    }

    void gather_pixels() {
        starts_.assign(size_ + 1, 0);
        for (const int32_t point : points_) starts_[point + 1]++;
        for (size_t point = 0; point < size_; point++) starts_[point + 1] += starts_[point];
        std::vector<int32_t> end(starts_.begin(), starts_.end() - 1);
        pixels_.resize(points_.size());
        pixel_weights_.resize(points_.size());
        for (size_t at = 0; at < points_.size(); at++) {
            const int32_t to = end[points_[at]]++;
            pixels_[to] = int32_t(at / POINTS);
            pixel_weights_[to] = weights_[at];
        }
    }

    // By the kernel's weight and, where it is normalised, by one over the roots of the kernel's sums at both pixels.
    void scale(float kernel_weight, bool normalized) {
        for (float& weight : weights_) weight /= 1 + std::pow(2.0f, float(-D));  // the lattice's own gain
        std::vector<float> root(n_, 1.0f);
        if (normalized) {
            std::vector<float> sums(n_, 0.0f);
            filter<float, 1>(root.data(), 1, sums.data());
            for (size_t pixel = 0; pixel < n_; pixel++) root[pixel] = float(1.0 / std::sqrt(sums[pixel] + 1e-20));
        }
        for (size_t at = 0; at < pixels_.size(); at++) pixel_weights_[at] *= root[pixels_[at]];
        for (size_t at = 0; at < weights_.size(); at++) weights_[at] *= root[at / POINTS] * kernel_weight;
    }

    template <class T, int V>
    void splat(const T* in, size_t stride, T* values) const {
        for (size_t point = 0; point < size_; point++) {
            T sum[V] = {};
            for (int32_t at = starts_[point]; at < starts_[point + 1]; at++) {
                const T* row = in + size_t(pixels_[at]) * stride;
                for (int v = 0; v < V; v++) sum[v] += pixel_weights_[at] * row[v];
            }
            for (int v = 0; v < V; v++) values[point * V + v] = sum[v];
        }
    }

    // A point's value plus half of both neighbours', direction by direction.
    template <class T, int V>
    void blur(T* values) const {
        for (const std::vector<int32_t>& chains : chains_)
            for (const int32_t* at = chains.data(); at < chains.data() + chains.size(); at += at[0] + 1) {
                T* row = values + size_t(at[1]) * V;
                T previous[V] = {}, current[V];
                std::copy_n(row, V, current);
                for (int32_t link = 2; link <= at[0]; link++) {
                    T* next_row = values + size_t(at[link]) * V;
                    for (int v = 0; v < V; v++) {
                        const T next = next_row[v];
                        row[v] = current[v] + 0.5f * (previous[v] + next);
                        previous[v] = current[v];
                        current[v] = next;
                    }
                    row = next_row;
                }
                for (int v = 0; v < V; v++) row[v] = current[v] + 0.5f * previous[v];
            }
    }

    size_t n_, size_ = 0;
    std::vector<int32_t> points_;  // of each pixel
    std::vector<float> weights_;
    std::vector<int32_t> starts_;  // of each point, in the two below
    std::vector<int32_t> pixels_;
    std::vector<float> pixel_weights_;
    std::array<std::vector<int32_t>, D + 1> chains_;
};

// Labels in blocks: the number of vectors in a row must be known to the compiler.
template <int V = LARGEST_BLOCK, class L>
void filter_labels(const L& lattice, const Vec* in, size_t vectors, size_t stride, Vec* out) {
    if constexpr (V > 0) {
        size_t first = 0;
        for (; first + V <= vectors; first += V) lattice.template filter<Vec, V>(in + first, stride, out + first);
        filter_labels<V - 1>(lattice, in + first, vectors - first, stride, out + first);
    }
}

Vec larger(Vec a, Vec b) { return a > b ? a : b; }

Vec all(float value) { return Vec{value, value, value, value}; }

// exp for x <= 0, relative error 2e-7 (the polynomial is Cephes' expf); 0 below -60: values near float32's smallest would
// make every product with them slow.
Vec exp_of(Vec x) {
    const IntVec visible = x > -60.0f;
    x = larger(x, all(-60.0f));
    const Vec shifted = x * 1.44269504f + 12582912.0f;  // rounds to whole numbers
    const IntVec power = IntVec(shifted) - IntVec(all(12582912.0f));
    const Vec whole = shifted - 12582912.0f;
    const Vec r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return Vec((IntVec(p) + (power << 23)) & visible);
}

void softmax(const Vec* scores, size_t vectors, Vec* probabilities) {
    Vec largest = scores[0], total = all(0.0f);
    for (size_t v = 1; v < vectors; v++) largest = larger(largest, scores[v]);
    const float top = std::max(std::max(largest[0], largest[1]), std::max(largest[2], largest[3]));
    for (size_t v = 0; v < vectors; v++) total += probabilities[v] = exp_of(scores[v] - top);
    const float scale = 1 / ((total[0] + total[1]) + (total[2] + total[3]));
    for (size_t v = 0; v < vectors; v++) probabilities[v] *= scale;
}

struct Problem {
    const uint8_t* image;           // [height, width, 3]
    const float* log_probabilities;  // [labels, height, width]
    size_t labels, height, width;
    float gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight;
    int iterations;
    bool normalized;
};

void mean_field(const Problem& of, float* marginals) {
    const size_t n = of.height * of.width, vectors = (of.labels + LANES - 1) / LANES;
    const auto position = [&](size_t pixel, float sxy, float* f) {
        f[0] = float(pixel % of.width) / sxy;
        f[1] = float(pixel / of.width) / sxy;
    };
    const Lattice<2> gaussian(
        n, of.gaussian_weight, of.normalized, [&](size_t pixel, float* f) { position(pixel, of.gaussian_sxy, f); });
    const Lattice<5> bilateral(n, of.bilateral_weight, of.normalized, [&](size_t pixel, float* f) {
        position(pixel, of.bilateral_sxy, f);
        for (int c = 0; c < 3; c++) f[2 + c] = float(of.image[pixel * 3 + c]) / of.bilateral_srgb;
    });

    std::vector<Vec> unary(n * vectors, all(-1e30f)), q(n * vectors), scores(n * vectors);  // unused lanes: impossible
    for (size_t label = 0; label < of.labels; label++)
        for (size_t pixel = 0; pixel < n; pixel++)
            unary[pixel * vectors + label / LANES][label % LANES] = of.log_probabilities[label * n + pixel];
    for (size_t pixel = 0; pixel < n; pixel++) softmax(&unary[pixel * vectors], vectors, &q[pixel * vectors]);
    for (int iteration = 0; iteration < of.iterations; iteration++) {
        std::copy(unary.begin(), unary.end(), scores.begin());
        filter_labels(gaussian, q.data(), vectors, vectors, scores.data());
        filter_labels(bilateral, q.data(), vectors, vectors, scores.data());
        for (size_t pixel = 0; pixel < n; pixel++) softmax(&scores[pixel * vectors], vectors, &q[pixel * vectors]);
    }
    for (size_t label = 0; label < of.labels; label++)
        for (size_t pixel = 0; pixel < n; pixel++)
            marginals[label * n + pixel] = q[pixel * vectors + label / LANES][label % LANES];
}

void check(const Problem& of) {
    const size_t n = of.height * of.width;
    if (of.labels < 2 || n == 0) throw std::invalid_argument("two labels and a pixel are needed");
    if (n > size_t(std::numeric_limits<int32_t>::max()) / 6 - PIXELS_AT_ONCE)
        throw std::invalid_argument("the image has more pixels than can be numbered");
    for (const float width : {of.gaussian_sxy, of.bilateral_sxy, of.bilateral_srgb})
        if (!(width > 0)) throw std::invalid_argument("kernel widths must be above 0");
    for (const float weight : {of.gaussian_weight, of.bilateral_weight})
        if (!std::isfinite(weight)) throw std::invalid_argument("kernel weights must be finite");
}

py::array_t<float> marginals(py::array_t<uint8_t, py::array::c_style> image,
                             py::array_t<float, py::array::c_style> log_probabilities, float gaussian_sxy,
                             float gaussian_weight, float bilateral_sxy, float bilateral_srgb, float bilateral_weight,
                             int iterations, const std::string& normalization) {
    if (image.ndim() != 3 || image.shape(2) != 3 || log_probabilities.ndim() != 3 ||
        image.shape(0) != log_probabilities.shape(1) || image.shape(1) != log_probabilities.shape(2))
        throw std::invalid_argument("an image (H, W, 3) and log probabilities (K, H, W) are needed");
    if (normalization != "symmetric" && normalization != "none")
        throw std::invalid_argument("the normalization is symmetric or none");
    const Problem problem = {image.data(), log_probabilities.data(), size_t(log_probabilities.shape(0)),
                             size_t(image.shape(0)), size_t(image.shape(1)), gaussian_sxy, gaussian_weight,
                             bilateral_sxy, bilateral_srgb, bilateral_weight, iterations, normalization == "symmetric"};
    check(problem);
    py::array_t<float> out({log_probabilities.shape(0), log_probabilities.shape(1), log_probabilities.shape(2)});
    float* values = out.mutable_data();
    py::gil_scoped_release released;
    mean_field(problem, values);
    return out;
}

}  // namespace

PYBIND11_MODULE(densecrf_lattice, module) {
    module.doc() = "Mean field of the fully connected CRF through the permutohedral lattice.";
    module.def("marginals", &marginals,
               "Marginals, float32 (K, H, W), of an RGB image (H, W, 3), uint8, and log probabilities (K, H, W), float32, "
               "K at least 2; minus infinity for an impossible label, one label of a pixel finite.\n\n`normalization`: "
               "with `symmetric` the kernels are divided by the roots of their sums at both pixels, with `none` they stay as "
               "they are.\n\nThe GIL is released. Raises ValueError for what cannot be computed.",
               py::arg("image").noconvert(), py::arg("log_probabilities").noconvert(), py::kw_only(),
               py::arg("gaussian_sxy"), py::arg("gaussian_weight"), py::arg("bilateral_sxy"), py::arg("bilateral_srgb"),
               py::arg("bilateral_weight"), py::arg("iterations"), py::arg("normalization") = "symmetric");
    module.attr("NORMALIZATIONS") = py::make_tuple("symmetric", "none");
}
