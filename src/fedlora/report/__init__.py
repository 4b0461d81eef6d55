# SPDX-License-Identifier: Apache-2.0
"""From run folders to tables, figures and one page. Reads files; imports no engine."""
