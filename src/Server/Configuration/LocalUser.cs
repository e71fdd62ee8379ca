using System.Globalization;

namespace FramePin.Server.Configuration;

/// <summary>Users and groups of the host, as its files name them.</summary>
internal static class LocalUser
{
    /// <summary>Effective user of this process (second number of the Uid line of /proc/self/status).</summary>
    public static uint Effective { get; } = uint.Parse(
        File.ReadLines("/proc/self/status").First(
            line => line.StartsWith("Uid:", StringComparison.Ordinal)).Split('\t')[2], CultureInfo.InvariantCulture);

    /// <summary>The number of a group by its name or number; null when /etc/group has no such name.</summary>
    public static uint? Group(string name)
    {
        if (uint.TryParse(name, NumberStyles.None, CultureInfo.InvariantCulture, out var number)) return number;
        var line = File.ReadLines("/etc/group").Select(text => text.Split(':')).FirstOrDefault(
            parts => parts[0] == name);
        return line is null ? null : uint.Parse(line[2], CultureInfo.InvariantCulture);
    }
}
