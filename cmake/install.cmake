# Program, both libraries, headers, pkg-config file, man page.
# In a static library the private dependencies are the user's to link, so rankine.pc names them.
set(RANKINE_PC_PRIVATE "")
foreach(library ${HDF5_C_LIBRARIES} ${MPI_C_LIBRARIES})
    string(APPEND RANKINE_PC_PRIVATE " ${library}")
endforeach()
# The prefix is where the file lies, so that `cmake --install --prefix` and a moved tree both work.
file(RELATIVE_PATH RANKINE_PC_UP /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(${PROJECT_SOURCE_DIR}/cmake/rankine.pc.in ${PROJECT_BINARY_DIR}/rankine.pc @ONLY)

install(TARGETS rankine rankine_shared ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/rankine DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_BINARY_DIR}/rankine.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES LICENSE README.md CHANGES.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

if(TARGET rankine_program)
    install(TARGETS rankine_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
    # A foreign program cannot be run here, so a cross build goes without the page.
    if(NOT CMAKE_CROSSCOMPILING)
        add_custom_command(TARGET rankine_program POST_BUILD
            COMMAND ${CMAKE_COMMAND} -E env ASAN_OPTIONS=detect_leaks=0 $<TARGET_FILE:rankine_program> help --man
                    > ${PROJECT_BINARY_DIR}/rankine.1
            BYPRODUCTS ${PROJECT_BINARY_DIR}/rankine.1 VERBATIM)
        install(FILES ${PROJECT_BINARY_DIR}/rankine.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
    endif()
endif()
