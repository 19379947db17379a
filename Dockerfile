# The server in an image, for a CPU:  docker build -t nexttoken .
# For NVIDIA GPUs:                    docker build -t nexttoken:cuda --build-arg TORCH_INDEX= .
# How to run it: deploy/README.md

ARG BASE=python:3.12-slim-trixie

# What the server stands on, in a virtual environment of its own. A change of our code leaves this stage as it is.
FROM ${BASE} AS dependencies
# PyTorch's index of builds without CUDA; empty takes the default build from the default index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt ./
# torch by itself: of two indexes at once, pip would take any package from whichever has the higher version.
RUN pip --python /opt/venv install --only-binary :all: ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} --no-deps -c constraints.txt torch
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > requirements.txt \
    && pip --python /opt/venv install --only-binary :all: -c constraints.txt -r requirements.txt
# Headers, test programs and tests: a quarter of the size, and nothing reads them when the server runs.
RUN cd /opt/venv/lib/python3*/site-packages \
    && rm -rf torch/include torch/share torch/test torch/bin/*[tT]est* torch/bin/protoc* \
    && find . -type d -name tests -prune -exec rm -rf {} +

# Our own files, under /staging, so that they make a small layer of their own above the one with torch.
FROM dependencies AS application
# The CPU kernels are compiled here, for all levels of instructions; the compiler stays behind in this stage.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY LICENSE README.md ./
COPY model model
RUN /opt/venv/bin/python -m model.kernels.cpu.build
COPY server server
RUN pip --python /opt/venv install --no-deps --no-build-isolation --root /staging .

FROM ${BASE}
LABEL org.opencontainers.image.title="nexttoken" \
      org.opencontainers.image.description="An OpenAI-compatible inference server for Llama-style models" \
      org.opencontainers.image.licenses="Apache-2.0"
# The bytecode that pip compiled comes along: 67 MB of the packed image, and 1.5 s less at each start.
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=application /staging/opt/venv /opt/venv
# Writable for whatever user the container is given; so is /tmp, and nothing else needs to be.
RUN install -d -m 1777 /models
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/models \
    NEXTTOKEN_HOST=0.0.0.0 \
    NEXTTOKEN_PORT=8000 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    # No import from the working directory, which may be a folder of somebody's models.
    PYTHONSAFEPATH=1
USER 10001:10001
VOLUME /models
EXPOSE 8000
STOPSIGNAL SIGTERM
# Starts long before the model is loaded, but not before it is downloaded. http.client, since urllib would ask a proxy.
HEALTHCHECK --start-period=10m --interval=10s --timeout=5s --retries=3 \
    CMD ["python", "-ISc", "import http.client, os; \
c = http.client.HTTPConnection('127.0.0.1', int(os.environ['NEXTTOKEN_PORT']), timeout=4); \
c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["nexttoken", "serve"]
