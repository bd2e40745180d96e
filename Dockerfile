# syntax=docker/dockerfile:1
# The demo. The model is not included, so mount it:
#   docker build -t demo .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 -v "$PWD/models/export:/srv/models/export:ro" demo
# --target mlflow builds the MLflow server instead.

ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1 VIRTUAL_ENV=/opt/venv
# uv checks the lock's hashes. pip would require a hash for every package, also those outside the lock.
RUN pip install uv==0.13.9 && python -m venv /opt/venv
COPY requirements.lock /tmp/

FROM packages AS app-packages
# The address of PyTorch's CPU builds (pytorch.org, "Get started") omits gigabytes of CUDA packages.
ARG TORCH_INDEX=
RUN uv pip install --no-deps --constraint /tmp/requirements.lock ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY app/requirements.txt /tmp/
RUN uv pip install --constraint /tmp/requirements.lock --requirement /tmp/requirements.txt

FROM packages AS mlflow-packages
RUN uv pip install --constraint /tmp/requirements.lock mlflow boto3==1.44.5

FROM python:${PYTHON} AS base
# A new volume inherits the owner of the folder it is mounted on.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin user \
    && install --directory --owner 10001 /var/lib/mlflow
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001

FROM base AS mlflow
ENV MLFLOW_DISABLE_TELEMETRY=true HOME=/tmp
WORKDIR /var/lib/mlflow
COPY --from=mlflow-packages /opt/venv /opt/venv
EXPOSE 5000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:5000/health', timeout=5)"]
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]

FROM base AS app
# Write only to /tmp, so that the root file system can be read-only.
ENV HOME=/tmp HF_HUB_OFFLINE=1 GRADIO_TEMP_DIR=/tmp/gradio
WORKDIR /srv
COPY --from=app-packages /opt/venv /opt/venv
COPY finetune finetune
COPY app app
EXPOSE 7860
HEALTHCHECK --start-period=120s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["python", "-m", "app", "--host", "0.0.0.0"]
