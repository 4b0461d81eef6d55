# SPDX-License-Identifier: Apache-2.0
"""Several methods on the same clients, and one table of all."""
