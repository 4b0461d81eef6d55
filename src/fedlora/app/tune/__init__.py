# SPDX-License-Identifier: Apache-2.0
"""Tuning: a race of methods, ranks and learning rates on a user's own clients, within minutes and bytes.

`asked` is the question and `methods` who may enter; `candidates` what is raced; `plan` which rungs fit the time; `race`
runs them as cells of a study, and `record` keeps where it is; `found` reads the answer and `written` writes it.
"""
