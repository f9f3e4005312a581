[Context]
shared=network;
devices=all;
[Sandbox]
capabilities=net_admin;
readonly=/run/udev;
families=qipcrtr;
[System Bus Policy]
org.freedesktop.ModemManager1=own
org.freedesktop.PolicyKit1=talk
org.freedesktop.login1=talk
