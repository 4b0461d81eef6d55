# SPDX-License-Identifier: Apache-2.0
"""Metrics of language models as additive sums over examples, and intervals around them."""
