# SPDX-License-Identifier: Apache-2.0
"""The tasks, one file each."""
