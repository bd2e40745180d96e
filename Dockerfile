# syntax=docker/dockerfile:1
# The demo, without the model, which is mounted:
#   docker build -t demo .
#   docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:7860:7860 -v "$PWD/models/export:/srv/models/export:ro" demo
# With --target mlflow, the server of the trainings' records instead.

ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS pip
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN ["python", "-m", "venv", "/opt/venv"]
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.lock /tmp/

FROM pip AS app-packages
# The address of PyTorch's CPU builds (pytorch.org, "Get started") leaves out CUDA and its gigabytes.
ARG TORCH_INDEX=
RUN pip install --no-deps --constraint /tmp/requirements.lock ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision
COPY app/requirements.txt /tmp/
RUN pip install --constraint /tmp/requirements.lock --requirement /tmp/requirements.txt

FROM pip AS mlflow-packages
RUN pip install --constraint /tmp/requirements.lock mlflow boto3==1.44.5

FROM python:${PYTHON} AS base
# a volume takes over who owns the folder that it is mounted on
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
# All that is written goes to /tmp: the file system itself may be read-only.
ENV HOME=/tmp HF_HUB_OFFLINE=1 GRADIO_TEMP_DIR=/tmp/gradio
WORKDIR /srv
COPY --from=app-packages /opt/venv /opt/venv
COPY finetune finetune
COPY app app
EXPOSE 7860
HEALTHCHECK --start-period=120s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=5)"]
CMD ["python", "-m", "app", "--host", "0.0.0.0"]
