# Runs models: predict, eval, bench and the page of the demo on exported directories. See docs/docker.md.
FROM python:3.13-slim-bookworm AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim-bookworm
# The build of OpenCV without a window takes the place of the usual one, whose libraries are not here.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir --constraint /constraints.txt "$(echo /wheels/detq-*.whl)[demo]" \
    && pip uninstall --yes opencv-python \
    && pip install --no-cache-dir --constraint /constraints.txt opencv-python-headless
RUN useradd --create-home --uid 10001 detq && mkdir /work && chown detq /work
USER 10001
WORKDIR /work
# Commands end by themselves, and the page asks whoever comes for its token: nothing to ask from outside.
HEALTHCHECK NONE
ENTRYPOINT ["detq"]
CMD ["--help"]
