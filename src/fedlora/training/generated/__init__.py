# SPDX-License-Identifier: Apache-2.0
"""Tasks and bases that need no download: generated texts, and small models made from them."""
