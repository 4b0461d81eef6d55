# SPDX-License-Identifier: Apache-2.0
"""A run under way: its rounds, its folder, its results and its page."""
