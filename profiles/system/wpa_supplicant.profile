[Context]
shared=network;
[Sandbox]
capabilities=net_admin;net_raw;
state=/run/wpa_supplicant;
readonly=/etc/wpa_supplicant;/dev/rfkill;
families=packet;
arguments=-u;-O;/run/wpa_supplicant;
[System Bus Policy]
fi.w1.wpa_supplicant1=own
