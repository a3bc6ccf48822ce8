# cmake -DOUT=file.c -DFILES="a;b" -P embed.cmake: the files as byte arrays in a table nbi_bundle.
set(arrays "")
set(rows "")
list(SORT FILES)
foreach(file IN LISTS FILES)
  get_filename_component(name ${file} NAME)
  string(MAKE_C_IDENTIFIER ${name} id)
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  string(REGEX REPLACE "(................................................................................)"
    "\\1\n" bytes "${bytes}")
  string(APPEND arrays "static const unsigned char ${id}[] = {\n${bytes}\n};\n")
  string(APPEND rows "    {\"${name}\", ${id}, sizeof ${id}},\n")
endforeach()
file(WRITE ${OUT} "/* Made by cmake/embed.cmake. */\n#include \"codegen/bundle.h\"\n\n${arrays}
const nbi_bundle_file nbi_bundle[] = {\n${rows}    {NULL, NULL, 0},\n};\n")
