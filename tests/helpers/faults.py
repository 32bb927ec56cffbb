"""The catalogue: every way that is known in which an exported file can be wrong, made on purpose in a real one."""

from helpers.faults_audit import AUDIT
from helpers.faults_ends import INPUTS, OUTPUTS
from helpers.faults_files import FILES, QUANTIZATION
from helpers.faults_half import HALF
from helpers.faults_network import ARCHITECTURE, WEIGHTS
from helpers.faults_told import TOLD

FAULTS = (*WEIGHTS, *ARCHITECTURE, *INPUTS, *OUTPUTS, *QUANTIZATION, *FILES, *TOLD, *AUDIT, *HALF)
assert len({fault.name for fault in FAULTS}) == len(FAULTS)
