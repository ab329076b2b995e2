"""bei-jobs from Python: submit a job, wait for it, read its output.

    import bei_jobs

    job = bei_jobs.submit("corpus.parquet", model="intfloat/e5-base-v2", prompt="passage: ")
    print(job.wait().rows.computed)
    table = bei_jobs.read(job.output).to_table(columns=["id", "embedding"])

Every call runs the command line in its own process. Importing bei_jobs loads neither PyTorch
nor Celery, and none of the packages `jobs`, `workers` and `pipeline`, so that a program may have
packages of these names.
"""

from bei_jobs.errors import AccessDenied as AccessDenied
from bei_jobs.errors import BeiJobsError as BeiJobsError
from bei_jobs.errors import BrokerError as BrokerError
from bei_jobs.errors import CanaryDiffers as CanaryDiffers
from bei_jobs.errors import CheckpointError as CheckpointError
from bei_jobs.errors import EncodeError as EncodeError
from bei_jobs.errors import InputChanged as InputChanged
from bei_jobs.errors import InputError as InputError
from bei_jobs.errors import InputMissing as InputMissing
from bei_jobs.errors import Interrupted as Interrupted
from bei_jobs.errors import JobFailed as JobFailed
from bei_jobs.errors import NotFound as NotFound
from bei_jobs.errors import OutputConflict as OutputConflict
from bei_jobs.errors import StorageError as StorageError
from bei_jobs.errors import StoreFull as StoreFull
from bei_jobs.errors import UsageError as UsageError
from bei_jobs.job_handle import Job as Job
from bei_jobs.job_handle import job as job
from bei_jobs.job_handle import plan as plan
from bei_jobs.job_handle import submit as submit
from bei_jobs.job_status import JobStatus as JobStatus
from bei_jobs.options import SubmitOptions as SubmitOptions
from bei_jobs.outputs import Verification as Verification
from bei_jobs.outputs import read as read
from bei_jobs.outputs import verify as verify
