"""Placement: what lies where.

group      which placement group a segment belongs to
planner    which storage nodes hold a placement group, in fragment order
replicas   which metadata nodes hold a Raft group, and who should lead it
"""
