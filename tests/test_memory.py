"""Peak memory of making a network small, in processes of their own."""

import json
import subprocess
import sys

import pytest

MEASURE = """
import json, sys
import torch, zoo
from torch import nn

def resident(key):
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(key))

def save(network, options):
    zoo.save(network, sys.argv[1], **options)

torch.manual_seed(0)
{network}
options = {options}
save(nn.Linear(64, 64), {{"bits": 4}})  # what the first call imports
weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
before = resident("VmRSS")
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
save(network, options)
print(json.dumps([resident("VmHWM") - before, weights]))
"""
SEVERAL = "network = nn.Sequential(nn.Conv2d(256, 512, 3), nn.Conv2d(512, 512, 3), nn.Conv2d(512, 512, 3))"
ONE = "network = nn.Sequential(nn.Linear(2048, 2500))"


def peak(tmp_path, network, options):
    """Bytes above what the process took with the network in memory, and bytes of the network."""
    code = MEASURE.format(network=network, options=options)
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "a.zoo"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("network", [SEVERAL, ONE], ids=["three convolutions", "one layer"])
@pytest.mark.parametrize("bits, most", [(4, 2), (None, 3)], ids=["rounded", "exact"])
def test_without_pictures_the_peak_is_a_few_times_the_weights_beside_them(tmp_path, network, bits, most):
    above, weights = peak(tmp_path, network, {"bits": bits})
    print(f"{above / weights:.2f} times the weights")
    assert weights > 20e6
    assert above < most * weights
