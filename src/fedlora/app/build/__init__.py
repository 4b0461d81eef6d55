# SPDX-License-Identifier: Apache-2.0
"""From a config to the parts of a run: examples, base, clients, method, trainer."""
