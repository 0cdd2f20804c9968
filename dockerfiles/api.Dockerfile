# The service: docker build --file dockerfiles/api.Dockerfile --build-arg MODEL_SHA256=$(sha256sum models/emodetect.onnx | cut -d' ' -f1) --tag emodetect .
# Run `make web` before, and the page looks at pictures in the browser; without it, it sends them to the service.
# tests/test_deploy.py runs these instructions in a folder, where no engine is at hand.
FROM python:3.13-slim-trixie AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils \
 && rm --recursive /var/lib/apt/lists/*
WORKDIR /build
COPY requirements_uv.txt requirements_serve.txt ./
# Bytecode, since nobody can write it into a read-only root later; copies, since what is a link into uv's cache would be stripped there, too
RUN python -m venv /build/tools \
 && /build/tools/bin/pip --disable-pip-version-check install --quiet --no-cache-dir --require-hashes --only-binary :all: --requirement requirements_uv.txt \
 && /build/tools/bin/uv venv --quiet --python /build/tools/bin/python /app \
 && /build/tools/bin/uv pip sync --quiet --python /app/bin/python --require-hashes --only-binary :all: --compile-bytecode --link-mode copy requirements_serve.txt
COPY settings.ini setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY emodetect emodetect
RUN /build/tools/bin/uv build --quiet --wheel --no-build-isolation --python /build/tools/bin/python --out-dir /build/wheel . \
 && /build/tools/bin/uv pip install --quiet --python /app/bin/python --no-deps --compile-bytecode /build/wheel/*.whl
# 63 MB, without bytecode, that no service uses: tests, stubs, sources, NumPy's compilers, PyYAML's parser in C, protobuf (for ONNX Runtime's tools), Pillow's AVIF and fonts, ONNX Runtime's tools and its library for programs in C
RUN find /app/lib -type d \( -name tests -o -path '*/numpy/distutils' -o -path '*/numpy/f2py' -o -path '*/site-packages/google' \) -prune -exec rm -r {} + \
 && find /app/lib \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' -o -name '*.h' -o -name '*_tests.*.so' -o -path '*/numpy/_core/_simd*' -o -path '*/yaml/_yaml*.so' \) -delete \
 && find /app/lib \( -path '*/PIL/_avif*' -o -path '*/PIL/_imagingft*.so' -o -path '*/pillow.libs/libavif*' -o -path '*/pillow.libs/libharfbuzz*' -o -path '*/pillow.libs/libfreetype*' -o -path '*/pillow.libs/libbrotli*' \) -delete \
 && find /app/lib -path '*/onnxruntime/capi/libonnxruntime.so*' -delete \
 && find /app/lib -type d \( -path '*/onnxruntime/tools' -o -path '*/onnxruntime/transformers' -o -path '*/onnxruntime/quantization' \) -prune -exec rm -r {} +
# 16 MB of names for debuggers
RUN find /app/lib \( -path '*/uvloop/*.so' -o -path '*/httptools/*.so' -o -path '*/PIL/*.so' \) -exec strip --strip-unneeded {} +

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="emodetect" \
      org.opencontainers.image.licenses="AGPL-3.0-or-later" \
      org.opencontainers.image.source="https://github.com/emodetect/emodetect"
COPY --from=build /app /app
COPY models/emodetect.onnx reports/model_card.md /models/
ARG MODEL_SHA256
RUN test "$(sha256sum < /models/emodetect.onnx)" = "$MODEL_SHA256  -"
ENV PATH="/app/bin:$PATH" \
    PYTHONDONTWRITEBYTECODE="1" \
    EMODETECT_HOST="0.0.0.0" \
    EMODETECT_PORT="8000" \
    EMODETECT_MODEL="/models/emodetect.onnx" \
    EMODETECT_CARD="/models/model_card.md" \
    EMODETECT_MODEL_SHA256="$MODEL_SHA256" \
    EMODETECT_LOG="json"
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f\"http://127.0.0.1:{os.environ['EMODETECT_PORT']}/healthz\", timeout=2)"]
ENTRYPOINT ["emodetect"]
CMD ["serve"]
