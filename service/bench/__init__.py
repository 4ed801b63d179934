"""`hltfarm bench farm`: real processes under a rising load, from a few events a second to more than they can take."""
