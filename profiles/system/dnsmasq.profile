[Context]
shared=network;
[Sandbox]
user=dnsmasq
capabilities=net_bind_service;net_admin;net_raw;
state=/var/lib/misc;/run/dnsmasq;
families=packet;
arguments=--keep-in-foreground;--enable-dbus;--pid-file;--log-facility=-;
[System Bus Policy]
uk.org.thekelleys.dnsmasq=own
