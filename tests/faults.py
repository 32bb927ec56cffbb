"""The catalogue: every way that is known in which an exported file can be wrong, made on purpose in a real one."""

from faults_ends import INPUTS, OUTPUTS
from faults_files import FILES, QUANTIZATION
from faults_network import ARCHITECTURE, WEIGHTS

FAULTS = (*WEIGHTS, *ARCHITECTURE, *INPUTS, *OUTPUTS, *QUANTIZATION, *FILES)
assert len({fault.name for fault in FAULTS}) == len(FAULTS)
