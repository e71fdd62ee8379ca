namespace FramePin.Tests.House;

/// <summary>
/// The order of the rooms: the one place where it stands. In each folder a room may use those to its left only, and a
/// folder with code that has no place in the table fails. "." stands for the files of the folder itself.
/// </summary>
internal sealed record RoomOrder(string Folder, string[] Rooms)
{
    public static readonly RoomOrder[] All =
    [
        new("src", ["Core", "Server", "Client"]),
        new("src/Core", [
            "Abi", "Addressing", "Native", "Frames", "PageTables", "Backing", "Vmas", "Kernel", "Faults", "Pinning",
            "Syscalls", "Inspection", "Access", "Machines"]),
        new("src/Server", [
            "Configuration", "Native", "Mapping", "Telemetry", "Sessions", "Machines", "Drivers", "LocalMemory",
            "Services", "LocalCalls", "."]),
        new("src/Client", ["Library", "Drivers", "Replay", "Conformance", "Samples", "Cli"]),
    ];

    /// <summary>Projects that are given away as packages: their public members are a promise of their own.</summary>
    public static readonly string[] Packages =
        ["src/Client/Library/", "src/Client/Drivers/", "src/Client/Replay/"];
}
