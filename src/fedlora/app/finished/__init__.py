# SPDX-License-Identifier: Apache-2.0
"""Runs that are over: read back, asked, exported."""
