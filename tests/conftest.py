"""Set before torch is imported: threads that wait for each other on a shared machine wait long.

And before triton is: its kernels run here on CPU tensors, interpreted. Tests that compile them start a process for it.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TRITON_INTERPRET"] = "1"
