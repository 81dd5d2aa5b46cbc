namespace isopod::core {}
