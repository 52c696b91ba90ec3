"""Agents in processes of their own: more than one core for what agents compute, behind one port and one journal."""
