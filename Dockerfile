# One image for every role: the entry point is the command line, the role is its first argument.
# PyTorch from PyPI carries the CUDA libraries, so the same image serves CPU and GPU workers. For a
# smaller image without CUDA pass the index of PyTorch's CPU builds as PIP_EXTRA_INDEX_URL.
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /app
# The dependencies first, on empty packages: this layer stays cached while only code changes.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir pipeline workers jobs bei_jobs \
    && touch pipeline/__init__.py workers/__init__.py jobs/__init__.py bei_jobs/__init__.py \
    && pip install -c constraints.txt '.[s3,gcs,azure,demo,metrics]'
COPY pipeline pipeline
COPY workers workers
COPY jobs jobs
COPY bei_jobs bei_jobs
RUN pip install --no-deps --force-reinstall .

# Downloaded checkpoints, and what this machine remembers of jobs: all that is written outside of
# /tmp, so that the root file system may be read-only. A volume here survives the container.
ENV HF_HOME=/models BEI_JOBS_CACHE_DIR=/models/bei-jobs BEI_JOBS_STATE_DIR=/state
RUN useradd --uid 1000 --create-home bei && mkdir /models /state && chown bei /models /state
USER bei
WORKDIR /home/bei

ENTRYPOINT ["bei-jobs"]
CMD ["--help"]
