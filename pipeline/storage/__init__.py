"""Where files live: local paths, `file://` and `s3://`, behind one small set of functions over addresses."""

from pipeline.errors import StorageError as StorageError
from pipeline.storage.files import absolute as absolute
from pipeline.storage.files import check_writable as check_writable
from pipeline.storage.files import exists as exists
from pipeline.storage.files import is_folder as is_folder
from pipeline.storage.files import is_local as is_local
from pipeline.storage.files import join as join
from pipeline.storage.files import make_parents as make_parents
from pipeline.storage.files import move as move
from pipeline.storage.files import parent as parent
from pipeline.storage.files import read_bytes as read_bytes
from pipeline.storage.files import read_image as read_image
from pipeline.storage.files import read_range as read_range
from pipeline.storage.files import redact as redact
from pipeline.storage.files import remove as remove
from pipeline.storage.files import remove_folder as remove_folder
from pipeline.storage.files import resolve as resolve
from pipeline.storage.files import retries as retries
from pipeline.storage.files import size as size
from pipeline.storage.files import told_apart as told_apart
from pipeline.storage.files import worker_environment as worker_environment
from pipeline.storage.files import write_atomic as write_atomic
from pipeline.storage.files import write_parquet as write_parquet
from pipeline.storage.retrying import StoreAwayError as StoreAwayError
from pipeline.storage.retrying import first_contact as first_contact
from pipeline.storage.submitted import check_kept as check_kept
