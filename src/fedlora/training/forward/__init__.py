# SPDX-License-Identifier: Apache-2.0
"""Ways from examples to a model's outputs: padded batches, the oracle, and packed sequences, the fast one."""
