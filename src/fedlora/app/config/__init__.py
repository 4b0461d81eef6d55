# SPDX-License-Identifier: Apache-2.0
"""The config: its sections and checks, the paths and profiles in it, and a first one for somebody's data."""
