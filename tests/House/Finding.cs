namespace FramePin.Tests.House;

/// <summary>Something that a guard does not allow.</summary>
/// <param name="Place">Where: a file, a member, or a pair of rooms; the key in the list of exceptions.</param>
/// <param name="Measure">How much of it: lines, columns, or the number of places.</param>
/// <param name="Detail">What a reader of the failure looks at.</param>
internal readonly record struct Finding(string Place, int Measure, string Detail);
