// The driver as far as it is looked for: a library of its name.
int cuInit(unsigned flags);
int cuInit(unsigned flags) { return (int)flags; }
