# What Chromium saves without asking goes to ~/.var/app/org.chromium.Chromium/Downloads.
# By TMPDIR a second start finds the first: /var/tmp is the app's, /tmp the sandbox's.
[Application]
name=org.chromium.Chromium
command=chromium;chromium-browser;
[Context]
shared=network;
sockets=wayland;fallback-x11;pulseaudio;
devices=dri;
persistent=Downloads;
features=userns;
[Environment]
TMPDIR=/var/tmp
