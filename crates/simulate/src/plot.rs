//! Small plots as SVG.
