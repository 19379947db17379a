"""Set before torch is imported: threads that wait for each other on a shared machine wait long."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
