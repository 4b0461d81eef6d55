# SPDX-License-Identifier: Apache-2.0
"""Ways from examples to logits: padded batches, the oracle, and packed sequences, the fast one."""
