# SPDX-License-Identifier: Apache-2.0
"""What may be said of methods that were run on the same partition draws: differences, intervals, shares of variance.

Numbers in, numbers out: nothing here knows a run folder, a model or a federation.
"""
