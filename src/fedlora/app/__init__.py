# SPDX-License-Identifier: Apache-2.0
"""From a config to a finished run: the floor that knows all others and hands them to each other."""
