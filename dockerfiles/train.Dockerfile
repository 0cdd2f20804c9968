# The pipeline's environment; the project itself is mounted: docker run --rm --user $(id -u):$(id -g) --volume "$PWD:/project" emodetect-train
# docker build --file dockerfiles/train.Dockerfile --tag emodetect-train .
# With `--build-arg LOCK=requirements_cluster.txt --tag emodetect-cluster` it holds Dask and Optuna, too, for the workers of a sweep (deploy/sweep.yaml).
FROM python:3.13-slim-trixie AS build
WORKDIR /build
ARG LOCK="requirements.txt"
COPY requirements_uv.txt requirements.txt requirements_cluster.txt ./
RUN python -m venv /build/tools \
 && /build/tools/bin/pip --disable-pip-version-check install --quiet --no-cache-dir --require-hashes --only-binary :all: --requirement requirements_uv.txt \
 && /build/tools/bin/uv venv --quiet --python /build/tools/bin/python /app \
 && /build/tools/bin/uv pip sync --quiet --python /app/bin/python --require-hashes "$LOCK"

FROM python:3.13-slim-trixie
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends git \
 && rm --recursive /var/lib/apt/lists/*
COPY --from=build /app /app
ENV PATH="/app/bin:$PATH" \
    PYTHONHASHSEED="0" \
    JUPYTER_PLATFORM_DIRS="1" \
    HOME="/tmp" \
    GIT_CONFIG_COUNT="1" \
    GIT_CONFIG_KEY_0="safe.directory" \
    GIT_CONFIG_VALUE_0="/project"
WORKDIR /project
USER 10001:10001
CMD ["dvc", "repro"]
