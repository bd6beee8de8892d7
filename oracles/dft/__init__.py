"""Density-functional theory as the next level above the potential: GPAW and VASP through atomate2."""
