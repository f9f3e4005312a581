package documents

// Introspection and TransferIntrospection are the <interface> elements of the
// two interfaces (D-Bus specification, "Introspection Data Format").
const (
	Introspection = `<interface name="org.freedesktop.portal.Documents">
  <property name="version" type="u" access="read"/>
  <method name="GetMountPoint">
    <arg type="ay" name="path" direction="out"/>
  </method>
  <method name="Add">
    <annotation name="org.gtk.GDBus.C.UnixFD" value="true"/>
    <arg type="h" name="o_path_fd" direction="in"/>
    <arg type="b" name="reuse_existing" direction="in"/>
    <arg type="b" name="persistent" direction="in"/>
    <arg type="s" name="doc_id" direction="out"/>
  </method>
  <method name="AddNamed">
    <annotation name="org.gtk.GDBus.C.UnixFD" value="true"/>
    <arg type="h" name="o_path_parent_fd" direction="in"/>
    <arg type="ay" name="filename" direction="in"/>
    <arg type="b" name="reuse_existing" direction="in"/>
    <arg type="b" name="persistent" direction="in"/>
    <arg type="s" name="doc_id" direction="out"/>
  </method>
  <method name="AddFull">
    <annotation name="org.gtk.GDBus.C.UnixFD" value="true"/>
    <arg type="ah" name="o_path_fds" direction="in"/>
    <arg type="u" name="flags" direction="in"/>
    <arg type="s" name="app_id" direction="in"/>
    <arg type="as" name="permissions" direction="in"/>
    <arg type="as" name="doc_ids" direction="out"/>
    <arg type="a{sv}" name="extra_out" direction="out"/>
  </method>
  <method name="AddNamedFull">
    <annotation name="org.gtk.GDBus.C.UnixFD" value="true"/>
    <arg type="h" name="o_path_fd" direction="in"/>
    <arg type="ay" name="filename" direction="in"/>
    <arg type="u" name="flags" direction="in"/>
    <arg type="s" name="app_id" direction="in"/>
    <arg type="as" name="permissions" direction="in"/>
    <arg type="s" name="doc_id" direction="out"/>
    <arg type="a{sv}" name="extra_out" direction="out"/>
  </method>
  <method name="GrantPermissions">
    <arg type="s" name="doc_id" direction="in"/>
    <arg type="s" name="app_id" direction="in"/>
    <arg type="as" name="permissions" direction="in"/>
  </method>
  <method name="RevokePermissions">
    <arg type="s" name="doc_id" direction="in"/>
    <arg type="s" name="app_id" direction="in"/>
    <arg type="as" name="permissions" direction="in"/>
  </method>
  <method name="Delete">
    <arg type="s" name="doc_id" direction="in"/>
  </method>
  <method name="Lookup">
    <arg type="ay" name="filename" direction="in"/>
    <arg type="s" name="doc_id" direction="out"/>
  </method>
  <method name="Info">
    <arg type="s" name="doc_id" direction="in"/>
    <arg type="ay" name="path" direction="out"/>
    <arg type="a{sas}" name="apps" direction="out"/>
  </method>
  <method name="List">
    <arg type="s" name="app_id" direction="in"/>
    <arg type="a{say}" name="docs" direction="out"/>
  </method>
  <method name="GetHostPaths">
    <arg type="as" name="doc_ids" direction="in"/>
    <arg type="a{say}" name="paths" direction="out"/>
  </method>
</interface>`

	TransferIntrospection = `<interface name="org.freedesktop.portal.FileTransfer">
  <property name="version" type="u" access="read"/>
  <method name="StartTransfer">
    <arg type="a{sv}" name="options" direction="in"/>
    <arg type="s" name="key" direction="out"/>
  </method>
  <method name="AddFiles">
    <annotation name="org.gtk.GDBus.C.UnixFD" value="true"/>
    <arg type="s" name="key" direction="in"/>
    <arg type="ah" name="fds" direction="in"/>
    <arg type="a{sv}" name="options" direction="in"/>
  </method>
  <method name="RetrieveFiles">
    <arg type="s" name="key" direction="in"/>
    <arg type="a{sv}" name="options" direction="in"/>
    <arg type="as" name="files" direction="out"/>
  </method>
  <method name="StopTransfer">
    <arg type="s" name="key" direction="in"/>
  </method>
  <signal name="TransferClosed">
    <arg type="s" name="key"/>
  </signal>
</interface>`
)
