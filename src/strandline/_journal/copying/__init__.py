"""`journal copy`: a whole journal from a file or a database into another one."""
