# rmt-rl and its demo. On the CPU:            docker build -t rmt-rl . && docker run rmt-rl
# On a GPU of NVIDIA (any index of PyTorch):  docker build --build-arg TORCH=cu128 -t rmt-rl:cuda . && docker run --gpus all rmt-rl:cuda
FROM python:3.12-slim-bookworm

ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1

RUN useradd --create-home --uid 1000 rmt
WORKDIR /home/rmt/rmt-rl

# PyTorch comes first and by itself, so that a change of the code doesn't install it again.
COPY constraints.txt ./
RUN grep '^torch==' constraints.txt > torch.txt \
    && pip install --index-url "https://download.pytorch.org/whl/${TORCH}" -r torch.txt

COPY . .
RUN pip install -c constraints.txt . \
    && chown -R rmt:rmt .

USER 1000
CMD ["python", "-m", "experiments.demo"]
