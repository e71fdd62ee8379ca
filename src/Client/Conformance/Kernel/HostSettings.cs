using System.Globalization;

namespace FramePin.Conformance.Kernel;

/// <summary>
/// Settings of the host that decide what memory calls answer. Those that FramePin models are read where its machine is
/// made; the others are expected to have one value, and are named where they have another.
/// </summary>
internal static class HostSettings
{
    private const string Thp = "/sys/kernel/mm/transparent_hugepage/";
    private const string HugePageSize = "hugepages-2048kB";

    /// <summary>File, the values that the comparison expects, and what another value changes.</summary>
    private static readonly (string File, string[] Expected, string Effect)[] Files =
    [
        ("/proc/sys/vm/overcommit_memory", ["0", "1"], "mappings are refused by the commit limit"),
        ("/proc/sys/vm/mmap_min_addr", ["65536"], "an ordinary user maps lower or higher addresses"),
        ("/proc/sys/vm/max_map_count", ["65530"], "mappings are refused by their number"),
        ("/proc/sys/vm/legacy_va_layout", ["0"], "mappings are placed upwards"),
        ("/proc/sys/kernel/numa_balancing", ["0"], "pages are unmapped by themselves"),
        ("/sys/kernel/mm/ksm/run", ["0", "2"], "equal pages are merged"),
        (Thp + "shmem_enabled", ["never", "deny"], "huge pages in shared memory"),
        (Thp + "use_zero_page", ["0", "1"], "huge zero pages"),
    ];

    /// <summary>The settings that differ from what is modelled, a sentence each.</summary>
    /// <param name="folder">The folder of the disk files, whose device reads ahead.</param>
    public static IReadOnlyList<string> NotModelled(string folder) => NotModelled(folder, Read);

    /// <summary>The same, with the values of <paramref name="read"/>, which is given a file's path.</summary>
    internal static IReadOnlyList<string> NotModelled(string folder, Func<string, string?> read)
    {
        var notes = new List<string>();
        foreach (var (file, expected, effect) in Files)
            if (read(file) is { } value && !expected.Contains(value)) notes.Add($"{file} is {value}: {effect}");
        if (Directory.Exists(Thp))
            foreach (var size in Directory.EnumerateDirectories(Thp, "hugepages-*").Order(StringComparer.Ordinal))
                foreach (var name in (string[])["enabled", "shmem_enabled"])
                {
                    var file = Path.Combine(size, name);
                    var usual = Path.GetFileName(size) == HugePageSize ? "inherit" : "never";
                    if (read(file) is { } value && value != usual)
                        notes.Add($"{file} is {value}: folios of this size");
                }

        // FramePin reads 32 pages of 4 KiB around a page that is not cached.
        const string usualReadAhead = "128";
        if (ReadAheadOf(folder, read) is { } kilobytes && kilobytes != usualReadAhead)
            notes.Add($"read_ahead_kb of the disk of {folder} is {kilobytes}: other pages are cached");
        return notes;
    }

    /// <summary>Areas of swap that the host uses.</summary>
    public static IReadOnlyList<string> SwapAreas() =>
        File.Exists("/proc/swaps") ? [.. File.ReadLines("/proc/swaps").Skip(1).Select(line => line.Split(' ')[0])] : [];

    /// <summary>The value of a setting, the chosen word of several; null where the kernel has it not.</summary>
    private static string? Read(string file)
    {
        try
        {
            var text = File.ReadAllText(file).Trim();
            var chosen = text.IndexOf('[', StringComparison.Ordinal);
            return chosen < 0 ? text : text[(chosen + 1)..text.IndexOf(']', StringComparison.Ordinal)];
        }
        catch (Exception exception) when (exception is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>read_ahead_kb of the device of a folder, by the device's number in mountinfo.</summary>
    private static string? ReadAheadOf(string folder, Func<string, string?> read)
    {
        var mount = File.ReadLines("/proc/self/mountinfo").Select(line => line.Split(' ')).Where(
            parts => parts.Length > 4 && (parts[4] == "/" || folder == parts[4]
                || folder.StartsWith(parts[4] + "/", StringComparison.Ordinal))).MaxBy(parts => parts[4].Length);
        return mount is null
            ? null
            : read(string.Create(CultureInfo.InvariantCulture, $"/sys/class/bdi/{mount[2]}/read_ahead_kb"));
    }

    /// <summary>Levels of page tables: 5 where the kernel uses LA57, which it then shows among the flags.</summary>
    public static int PageTableLevels() => File.ReadLines("/proc/cpuinfo").FirstOrDefault(
        line => line.StartsWith("flags", StringComparison.Ordinal)) is { } flags
        && flags.Split(' ').Contains("la57") ? 5 : 4;
}
