using Microsoft.CodeAnalysis;

namespace FramePin.Tests.House;

/// <summary>Which room uses which, by symbols.</summary>
internal static class Rooms
{
    /// <summary>
    /// Uses against the order of <see cref="RoomOrder"/>; the measure is the number of different things that one room
    /// uses of the other.
    /// </summary>
    public static IEnumerable<Finding> BackArrows(IEnumerable<SymbolUse> uses, IReadOnlyList<RoomOrder> orders)
    {
        var all = uses.ToList();
        foreach (var order in orders)
            foreach (var (arrow, through) in Arrows(all, order.Folder))
            {
                var from = Array.IndexOf(order.Rooms, arrow.From);
                var to = Array.IndexOf(order.Rooms, arrow.To);
                if (from >= 0 && to > from)
                    yield return new Finding(
                        $"{order.Folder}: {arrow.From} -> {arrow.To}", through.Count, string.Join(", ", through));
            }
    }

    /// <summary>
    /// Rooms side by side in one folder that use each other in a circle, over other rooms too. Files that lie in the
    /// folder itself belong to no room, unless the order gives them a place.
    /// </summary>
    public static IEnumerable<Finding> Circles(IEnumerable<SymbolUse> uses, IReadOnlyList<RoomOrder> orders)
    {
        var all = uses.ToList();
        foreach (var folder in Folders(all))
        {
            var arrows = Arrows(all, folder);
            var isRoom = orders.Any(order => order.Folder == folder && order.Rooms.Contains("."));
            var next = arrows.Keys.Where(arrow => isRoom || (arrow.From != "." && arrow.To != "."))
                .ToLookup(arrow => arrow.From, arrow => arrow.To);
            foreach (var from in next.Select(group => group.Key))
                foreach (var to in next[from])
                    if (string.CompareOrdinal(from, to) < 0 && Reaches(to, from, next))
                        yield return new Finding(
                            $"{folder}: {from} <-> {to}", 1,
                            $"{from} uses {string.Join(", ", arrows[(from, to)].Take(3))}; {to} leads back to {from}");
        }
    }

    /// <summary>Folders beside the rooms of an order that hold code and have no place in it.</summary>
    public static IEnumerable<Finding> Unplaced(IEnumerable<string> files, IReadOnlyList<RoomOrder> orders)
    {
        var all = files.ToList();
        foreach (var order in orders)
            foreach (var room in all.Select(file => Room(file, order.Folder)).OfType<string>().Distinct())
                if (!order.Rooms.Contains(room) && room != ".")
                    yield return new Finding($"{order.Folder}/{room}", 1, "has no place in RoomOrder.cs");
    }

    private static Dictionary<(string From, string To), SortedSet<string>> Arrows(List<SymbolUse> uses, string folder)
    {
        var arrows = new Dictionary<(string, string), SortedSet<string>>();
        foreach (var use in uses)
        {
            if (Room(use.From, folder) is not { } from || Room(SymbolUses.FileOf(use.Target)!, folder) is not { } to ||
                from == to)
                continue;
            if (!arrows.TryGetValue((from, to), out var through))
                arrows[(from, to)] = through = new SortedSet<string>(StringComparer.Ordinal);
            through.Add($"{Path.GetFileNameWithoutExtension(use.From)}: {Name(use.Target)}");
        }

        return arrows;
    }

    private static string Name(ISymbol symbol) =>
        symbol is INamedTypeSymbol or null ? symbol?.Name ?? "" : $"{symbol.ContainingType?.Name}.{symbol.Name}";

    /// <summary>
    /// The first folder below <paramref name="folder"/> on the way to a file, "." for the folder itself, null outside.
    /// </summary>
    private static string? Room(string file, string folder)
    {
        if (!file.StartsWith(folder + "/", StringComparison.Ordinal)) return null;
        var rest = file[(folder.Length + 1)..];
        var end = rest.IndexOf('/', StringComparison.Ordinal);
        return end < 0 ? "." : rest[..end];
    }

    private static IEnumerable<string> Folders(List<SymbolUse> uses)
    {
        var folders = new SortedSet<string>(StringComparer.Ordinal);
        foreach (var file in uses.Select(use => use.From).Distinct())
        {
            var folder = Path.GetDirectoryName(file);
            while (!string.IsNullOrEmpty(folder))
            {
                folders.Add(folder);
                folder = Path.GetDirectoryName(folder);
            }
        }

        return folders;
    }

    private static bool Reaches(string from, string to, ILookup<string, string> next)
    {
        var seen = new HashSet<string> { from };
        var open = new Queue<string>(seen);
        while (open.TryDequeue(out var room))
        {
            if (room == to) return true;
            foreach (var neighbour in next[room])
                if (seen.Add(neighbour)) open.Enqueue(neighbour);
        }

        return false;
    }
}
