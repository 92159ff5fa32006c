"""Models: registry, training, prediction, evaluation, jobs."""

import os

# OpenMP threads wait without spinning. On a machine that also serves pages a spinning thread keeps the very core that
# its partner needs: measured on two busy cores, a training step took seventeen times as long. Has to be set before
# torch is loaded; a site may choose otherwise in the environment.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
