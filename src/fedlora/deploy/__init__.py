# SPDX-License-Identifier: Apache-2.0
"""A federation across sites: the process that stays at a site, the server's relay, and what carries bytes between."""
