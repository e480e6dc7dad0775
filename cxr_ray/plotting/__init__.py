"""How figures are drawn, from plain numbers: matplotlib objects, no files. Which figures a page has is in `report`."""
