mod faults;
mod lock;
