// Mean field of the fully connected CRF with two Potts terms (Kraehenbuehl and Koltun 2011), filtered through the
// permutohedral lattice (Adams, Baek, Davis 2010): what pydensecrf computes, with the same lattice, several times faster.
//
// What makes it faster, in the order of what it saves:
// - One pass over the pixels an iteration: a pixel hears both kernels, decides, and adds its answer to the points around it.
// - With AVX2 eight labels are one register; the module is compiled a second time for it (setup.py).
// - Blurring walks along chains of neighbours in place, chains of one length together, so that the processor foresees where
//   they end. A point without neighbours in a direction is not touched.
// - Pixels are taken square by square, so that those which share lattice points come soon after each other.
// - Each lattice point looks up one neighbour a direction, not two, in the order of the table, through keys of 64 bits.
// - The normalisation (if any) is folded into the barycentric weights, exp takes a register of labels at a time.
//
// Every label goes through the same operations. Where nothing tells them apart (no proposal, all probabilities equal) they
// stay equal to the last bit: the mean field would make any difference grow until it shows. Results do not depend on
// the size of the registers either.
//
// Plain C++17 with the vector extensions of GCC and Clang.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace {

// Labels at once: as many as a register of the processor holds that this is compiled for.
#ifdef __AVX2__
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
using Vec = float __attribute__((vector_size(4 * LANES)));
using IntVec = int32_t __attribute__((vector_size(4 * LANES)));
constexpr int LARGEST_ROW = 24 / LANES;  // vectors of labels, of which the compiler knows the number
constexpr float LARGEST_COORDINATE = 1 << 15;  // beyond it float32 positions in the lattice mean little
constexpr int PIXELS_AT_ONCE = 4;              // of pydensecrf, see Lattice
constexpr size_t CHUNK = 16;                    // pixels that go through a step before the next step
constexpr size_t TILE = 16;                     // side of a square of pixels

// Numbers for keys in the order of their arrival: open addressing, at most half full.
//
// The hash is linear: keys a step apart have slots a step apart. So if neighbours are looked up for one slot after the
// other, theirs also come one after the other, and the table is read in order.
class KeyTable {
public:
    size_t size() const { return size_; }
    void prefetch(uint64_t key) const { __builtin_prefetch(&slots_[home(key)]); }
    int32_t find(uint64_t key) const { return slots_[slot(key)].number; }  // -1: not there
    int32_t insert(uint64_t key) {
        Slot& found = slots_[slot(key)];
        if (found.number >= 0) return found.number;
        const int32_t number = int32_t(size_);
        found = {key, number};
        if (2 * ++size_ >= slots_.size()) grow();
        return number;
    }
    template <class Do>  // void(uint64_t key, int32_t number)
    void each(Do act) const {
        for (const Slot& slot : slots_)
            if (slot.number >= 0) act(slot.key, slot.number);
    }

private:
    struct Slot {
        uint64_t key = EMPTY;
        int32_t number = -1;
    };
    static constexpr uint64_t EMPTY = ~uint64_t(0);  // keys have 63 bits
    size_t home(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift_; }
    size_t slot(uint64_t key) const {
        size_t at = home(key);
        while ((slots_[at].key != key) & (slots_[at].key != EMPTY)) at = (at + 1) & (slots_.size() - 1);
        return at;
    }
    void grow() {
        std::vector<Slot> old(2 * slots_.size());
        old.swap(slots_);
        shift_--;
        for (const Slot& moved : old)
            if (moved.number >= 0) slots_[slot(moved.key)] = moved;
    }
    size_t size_ = 0;
    int shift_ = 64 - 14;
    std::vector<Slot> slots_ = std::vector<Slot>(1 << 14);
};

// The lattice around n pixels with D features each. A pixel lies in a simplex of D + 1 lattice points.
//
// pydensecrf works on four pixels at once and fills up the last four with pixels whose features are 0. Their lattice points
// carry no value but let others' values through, which can be seen in small images; so such a pixel is placed here too.
template <int D>
class Lattice {
public:
    static constexpr int POINTS = D + 1;
    static constexpr float GAIN = 1 + 1.0f / (1 << D);  // of the lattice itself

    template <class Features>  // void(size_t pixel, float features[D])
    Lattice(size_t n, bool normalized, Features features) : n_(n), corners_((n + (n % PIXELS_AT_ONCE != 0)) * POINTS) {
        place(features);
        corners_.resize(n * POINTS);
        if (normalized) normalize();
    }

    size_t size() const { return size_; }

    template <class T>
    void splat(size_t pixel, const T* value, T* rows, size_t width) const {
        const Corner* corners = &corners_[pixel * POINTS];
#pragma GCC unroll 6
        for (int r = 0; r < POINTS; r++) {
            T* row = rows + size_t(corners[r].point) * width;
            for (size_t v = 0; v < width; v++) row[v] += corners[r].weight * value[v];
        }
    }

    template <class T>
    void slice(size_t pixel, const T* rows, size_t width, float weight, T* out) const {
        const Corner* corners = &corners_[pixel * POINTS];
        for (size_t v = 0; v < width; v++) {
            T sum = {};
#pragma GCC unroll 6
            for (int r = 0; r < POINTS; r++) sum += corners[r].weight * rows[size_t(corners[r].point) * width + v];
            out[v] += weight * sum;
        }
    }

    // A point's value plus half of both neighbours', direction by direction.
    template <class T, int V>
    void blur(T* values, size_t stride) const {
        for (const auto& by_length : chains_)
            for (size_t length = 2; length < by_length.size(); length++)
                for (size_t at = 0; at < by_length[length].size(); at += length) {
                    const int32_t* points = &by_length[length][at];
                    T* row = values + size_t(points[0]) * stride;
                    T previous[V] = {}, current[V];
                    std::copy_n(row, V, current);
                    for (size_t link = 1; link < length; link++) {
                        T* next_row = values + size_t(points[link]) * stride;
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

private:
    struct Corner {
        int32_t point;
        float weight;
    };

    // Number the lattice points by the pixels that touch them first, and chain them along each direction.
    template <class Features>
    void place(Features features) {
        const size_t n = corners_.size() / POINTS;
        std::vector<std::array<int32_t, D>> origins(n);
        std::vector<std::array<int8_t, D>> ranks(n);
        std::array<int32_t, D> low, high;
        low.fill(std::numeric_limits<int32_t>::max());
        high.fill(std::numeric_limits<int32_t>::min());
        for (size_t pixel = 0; pixel < n; pixel++) {
            float f[D] = {};
            if (pixel < n_) features(pixel, f);
            simplex(f, origins[pixel], ranks[pixel], &corners_[pixel * POINTS]);
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
        KeyTable table;
        std::array<uint64_t, POINTS * CHUNK> keys;
        for (size_t first = 0; first < n; first += CHUNK) {
            const size_t end = std::min(first + CHUNK, n);
            uint64_t* key = keys.data();
            for (size_t pixel = first; pixel < end; pixel++) {
                const uint64_t origin = packed([&](int i) { return origins[pixel][i] - low[i]; });
                for (int r = 0; r < POINTS; r++, key++) {
                    *key = origin + packed([&](int i) { return ranks[pixel][i] <= D - r ? r : r - POINTS; });
                    table.prefetch(*key);
                }
            }
            key = keys.data();
            for (size_t at = first * POINTS; at < end * POINTS; at++) corners_[at].point = table.insert(*key++);
        }
        size_ = table.size();
        for (int direction = 0; direction < POINTS; direction++)
            chains_[direction] = chains(table, packed([&](int i) { return i == direction ? D : -1; }));
    }

    // The simplex around a pixel: its point of remainder 0, the order of the pixel's coordinates in it, the barycentric
    // weights (pp. 5 and 10 of the lattice's paper). The operations are pydensecrf's, in its order: a pixel between two
    // simplices must fall into the same one.
    static void simplex(const float* f, std::array<int32_t, D>& origin, std::array<int8_t, D>& ranks, Corner* corners) {
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
        for (int i = 0; i < POINTS; i++) corners[i].weight = barycentric[i];
        for (int i = 0; i < D; i++) {
            origin[i] = int32_t(remainder0[i]);
            ranks[i] = int8_t(rank[i]);
        }
    }

    // Chains of two and more neighbours that lie `step` apart, by their length.
    static std::vector<std::vector<int32_t>> chains(const KeyTable& table, uint64_t step) {
        std::vector<int32_t> next(table.size()), chain;
        std::vector<uint8_t> has_previous(table.size());
        table.each([&](uint64_t key, int32_t point) {
            next[point] = table.find(key + step);
            if (next[point] >= 0) has_previous[next[point]] = 1;
        });
        std::vector<std::vector<int32_t>> found;
        for (size_t first = 0; first < table.size(); first++) {
            if (has_previous[first] || next[first] < 0) continue;
            chain.clear();
            for (int32_t point = int32_t(first); point >= 0; point = next[point]) chain.push_back(point);
            if (found.size() <= chain.size()) found.resize(chain.size() + 1);
            found[chain.size()].insert(found[chain.size()].end(), chain.begin(), chain.end());
        }
        return found;
    }

    // Divide the kernel by the roots of its sums at both pixels.
    void normalize() {
        const float one = 1;
        std::vector<float> values(size_);
        for (size_t pixel = 0; pixel < n_; pixel++) splat(pixel, &one, values.data(), 1);
        blur<float, 1>(values.data(), 1);
        std::vector<float> sums(n_);
        for (size_t pixel = 0; pixel < n_; pixel++) slice(pixel, values.data(), 1, 1 / GAIN, &sums[pixel]);
        for (size_t at = 0; at < corners_.size(); at++)
            corners_[at].weight *= float(1.0 / std::sqrt(sums[at / POINTS] + 1e-20));
    }

    size_t n_, size_ = 0;
    std::vector<Corner> corners_;  // of each pixel's simplex
    std::array<std::vector<std::vector<int32_t>>, D + 1> chains_;
};

// What one kernel says to each pixel about the labels, while the pixels' answers are gathered for the next time. A row of
// values is `width` vectors, B if that is known to the compiler, else B is 0.
template <int B, int D>
class Messages {
public:
    Messages(const Lattice<D>& lattice, float weight, size_t width)
        : lattice_(lattice), weight_(weight / lattice.GAIN), width_(width), heard_(lattice.size() * width),
          said_(lattice.size() * width) {}
    void add_to(size_t pixel, Vec* scores) const { lattice_.slice(pixel, heard_.data(), width(), weight_, scores); }
    void take(size_t pixel, const Vec* probabilities) { lattice_.splat(pixel, probabilities, said_.data(), width()); }
    void pass() {
        if constexpr (B > 0)
            lattice_.template blur<Vec, B>(said_.data(), B);
        else
            for (size_t v = 0; v < width_; v++) lattice_.template blur<Vec, 1>(said_.data() + v, width_);
        std::swap(heard_, said_);
        std::fill(said_.begin(), said_.end(), Vec{});
    }

private:
    size_t width() const { return B > 0 ? B : width_; }
    const Lattice<D>& lattice_;
    float weight_;
    size_t width_;
    std::vector<Vec> heard_, said_;
};

Vec larger(Vec a, Vec b) { return a > b ? a : b; }

Vec all(float value) { return Vec{} + value; }

// All lanes as one value: halves are combined until one lane is left.
template <class Combine>
float fold(Vec v, Combine combine) {
    float lanes[LANES];
    std::memcpy(lanes, &v, sizeof v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] = combine(lanes[i], lanes[i + half]);
    return lanes[0];
}

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

// In place.
void softmax(Vec* scores, size_t width) {
    constexpr int PARTS = 8 / LANES;  // the same order of summing with registers of any size
    Vec top = scores[0], total[PARTS] = {};
    for (size_t v = 1; v < width; v++) top = larger(top, scores[v]);
    const float most = fold(top, [](float a, float b) { return std::max(a, b); });
    for (size_t v = 0; v < width; v++) total[v % PARTS] += scores[v] = exp_of(scores[v] - most);
    for (int part = 1; part < PARTS; part++) total[0] += total[part];
    const float scale = 1 / fold(total[0], [](float a, float b) { return a + b; });
    for (size_t v = 0; v < width; v++) scores[v] *= scale;
}

struct Problem {
    const uint8_t* image;           // [height, width, 3]
    const float* log_probabilities;  // [labels, height, width]
    size_t labels, height, width;
    float gaussian_sxy, gaussian_weight, bilateral_sxy, bilateral_srgb, bilateral_weight;
    int iterations;
    bool normalized;
};

// Pixels in small squares, so that those which share lattice points come soon after each other.
std::vector<int32_t> in_tiles(size_t height, size_t width) {
    std::vector<int32_t> order;
    order.reserve(height * width);
    for (size_t top = 0; top < height; top += TILE)
        for (size_t left = 0; left < width; left += TILE)
            for (size_t y = top; y < std::min(top + TILE, height); y++)
                for (size_t x = left; x < std::min(left + TILE, width); x++) order.push_back(int32_t(y * width + x));
    return order;
}

size_t vectors_of(const Problem& of) { return (of.labels + LANES - 1) / LANES; }

// A row of labels is B vectors, or as many as it takes if B is 0.
template <int B>
void mean_field_of(const Problem& of, float* marginals) {
    const size_t n = of.height * of.width, width = B > 0 ? B : vectors_of(of);
    const std::vector<int32_t> order = in_tiles(of.height, of.width);
    const auto position = [&](size_t pixel, float sxy, float* f) {
        f[0] = float(pixel % of.width) / sxy;
        f[1] = float(pixel / of.width) / sxy;
    };
    const Lattice<2> gaussian(n, of.normalized, [&](size_t i, float* f) { position(order[i], of.gaussian_sxy, f); });
    const Lattice<5> bilateral(n, of.normalized, [&](size_t i, float* f) {
        position(order[i], of.bilateral_sxy, f);
        for (int c = 0; c < 3; c++) f[2 + c] = float(of.image[size_t(order[i]) * 3 + c]) / of.bilateral_srgb;
    });
    Messages<B, 2> smoothness(gaussian, of.gaussian_weight, width);
    Messages<B, 5> appearance(bilateral, of.bilateral_weight, width);

    std::vector<Vec> unary(n * width, all(-1e30f)), q(CHUNK * width);  // unused lanes: impossible
    for (size_t label = 0; label < of.labels; label++)
        for (size_t i = 0; i < n; i++)
            unary[i * width + label / LANES][label % LANES] = of.log_probabilities[label * n + order[i]];
    for (int iteration = 0; iteration <= of.iterations; iteration++) {
        if (iteration > 0) smoothness.pass(), appearance.pass();
        for (size_t first = 0; first < n; first += CHUNK) {
            const size_t pixels = std::min(CHUNK, n - first);
            std::copy_n(&unary[first * width], pixels * width, q.data());
            if (iteration > 0)
                for (size_t i = 0; i < pixels; i++) {
                    smoothness.add_to(first + i, &q[i * width]);
                    appearance.add_to(first + i, &q[i * width]);
                }
            for (size_t i = 0; i < pixels; i++) softmax(&q[i * width], width);
            if (iteration < of.iterations) {
                for (size_t i = 0; i < pixels; i++) {
                    smoothness.take(first + i, &q[i * width]);
                    appearance.take(first + i, &q[i * width]);
                }
            } else {
                for (size_t label = 0; label < of.labels; label++)
                    for (size_t i = 0; i < pixels; i++)
                        marginals[label * n + order[first + i]] = q[i * width + label / LANES][label % LANES];
            }
        }
    }
}

template <int B = 1>
void mean_field(const Problem& of, float* marginals) {
    if constexpr (B > LARGEST_ROW)
        mean_field_of<0>(of, marginals);
    else if (vectors_of(of) == B)
        mean_field_of<B>(of, marginals);
    else
        mean_field<B + 1>(of, marginals);
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

#ifdef __AVX2__
PYBIND11_MODULE(densecrf_lattice_avx2, module) {
#else
PYBIND11_MODULE(densecrf_lattice, module) {
#endif
    module.doc() = "Mean field of the fully connected CRF through the permutohedral lattice.";
    module.def("marginals", &marginals,
               "Marginals, float32 (K, H, W), of an RGB image (H, W, 3), uint8, and log probabilities (K, H, W), float32, "
               "K at least 2; minus infinity for an impossible label, one label of a pixel finite.\n\n`normalization`: "
               "with `symmetric` the kernels are divided by the roots of their sums at both pixels, with `none` they stay as "
               "they are.\n\nThe GIL is released. Raises ValueError for what cannot be computed.",
               py::arg("image").noconvert(), py::arg("log_probabilities").noconvert(), py::kw_only(),
               py::arg("gaussian_sxy"), py::arg("gaussian_weight"), py::arg("bilateral_sxy"), py::arg("bilateral_srgb"),
               py::arg("bilateral_weight"), py::arg("iterations"), py::arg("normalization") = "symmetric");
#ifdef WITH_AVX2_MODULE
    module.attr("AVX2") = bool(__builtin_cpu_supports("avx2"));
#endif
    module.attr("NORMALIZATIONS") = py::make_tuple("symmetric", "none");
}
