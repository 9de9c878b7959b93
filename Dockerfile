# The image of every pod of deploy/rayjob.yaml: Python 3.11, the pinned packages, this project. About 8 GB, most of it torch.
FROM python:3.11-slim-bookworm

# g++ builds this project's CRF and pydensecrf2; wget is for the health checks of older KubeRay releases.
RUN apt-get update && apt-get install -qy --no-install-recommends g++ wget && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY pyproject.toml constraints.txt ./
# Into the image's own Python, no venv: a login shell forgets the PATH of the image, but finds /usr/local/bin.
# The packages first, the project after them: a change of code leaves this large layer as it is. With their bytecode, which
# the user of the pods may not write: without it each worker takes 5 s longer to start.
RUN pip install --no-cache-dir -c constraints.txt uv \
    && uv pip install --system --no-cache --compile-bytecode --build-constraints constraints.txt -c constraints.txt -r pyproject.toml --extra all
COPY setup.py README.md LICENSE ./
COPY native native
COPY pipeline pipeline
COPY jobs jobs
RUN uv pip install --system --no-cache --no-deps --build-constraints constraints.txt .

# Ray would end a worker that waited for a second, and a new one takes seconds to start.
# Nothing is reported to Ray's makers.
ENV RAY_idle_worker_killing_time_threshold_ms=600000 RAY_USAGE_STATS_ENABLED=0

RUN useradd --create-home --uid 1000 ray
USER 1000
